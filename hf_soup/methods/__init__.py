"""Methods: HOW the tensors of one name combine. One pure function a file, called as the file is.

`f(tensors, weights, *, ...) -> Tensor`: `tensors` yields one tensor for each weight, already in the accumulator's
type; the result has that type too. A method sees no names, no scores and no data, and changes none of its inputs.
"""
