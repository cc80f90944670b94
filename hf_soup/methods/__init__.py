"""Methods decide HOW the tensors of one name are combined. One pure function per file, with the file's name.

`f(tensors, weights, *, ...) -> Tensor`: `tensors` yields one tensor for each weight, once, and already in the type in
which sums are accumulated; the result has the same type. A method sees no names, scores or data, and does not change
its inputs.

A method asks for more by the names of its parameters:
- `base`: the tensor of the base model. The recipe then needs a base model; a parameter with a default is only given
  one that the user named.
- `out`: memory for the result, in the accumulator's type. In return the method promises to do no more than to add up
  multiples of the tensors, element by element and one tensor at a time, and to copy the first one, which may have a
  narrower type, to `out`. Therefore it may be given pieces of tensors, all of them in one buffer, and a NaN in any
  tensor appears in the result.
- `importance`: for each tensor, statistics of the data that its model knows. `@method(importance="fisher")` gives the
  diagonal of the Fisher information, of the shape of the tensor (in pieces as well), and `importance="gram"` the Gram
  matrix of the inputs of a linear layer. Tensors without statistics are averaged plainly.
- `rng`: a `torch.Generator` seeded with the recipe's seed and the tensor's name, so that the order in which tensors
  are merged does not matter. The method is then given whole tensors.

`@method(elementwise=True)` ([`hf_soup.plugins.method`]) promises that each element of the result depends only on the
elements at the same position. Such a method is given flat pieces instead of whole tensors. `absolute_weights=True`
says that weights are factors and not ratios, and `ingredients=2` that the method combines two tensors at most. A
parameter of the type `float` may have another value for each tensor, and one of `float | Sequence[float]` one for each
ingredient.
"""
