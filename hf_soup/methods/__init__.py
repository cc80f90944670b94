"""Methods: HOW the tensors of one name combine. One pure function a file, called as the file is.

`f(tensors, weights, *, ...) -> Tensor`: `tensors` yields one tensor for each weight, already in the accumulator's
type; the result has that type too. A method sees no names, no scores and no data, and changes none of its inputs.

The plan provides more when it asks by parameter name:
- `base`: the base model's tensor; the recipe needs a base model then.
- `out`: memory for the result, in the accumulator's type. In return the method only adds up multiples of the tensors,
  number by number and one tensor at a time, and copies the first to `out`, which may come in a narrower type. So
  pieces of tensors may come, all in one buffer, and NaN in any of them shows in the result.
- `rng`: a `torch.Generator` that is seeded by the recipe's seed and the tensor's name, so that it does not matter in
  which order tensors are made. Whole tensors come then.

`@method(elementwise=True)` ([`hf_soup.plugins.method`]) promises that each number of the result depends on the numbers
at its own place alone: then flat pieces come instead of whole tensors.
"""
