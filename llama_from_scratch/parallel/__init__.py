"""One model on several processes, without changes to the model's own code.

`plan` is the table of how each weight is cut, `apply` shards a model by it, and `ranks` is about the processes that
`torchrun` started; the command `train` uses all three. Nothing is imported here, because `apply` imports much of torch.
What training on many GPUs costs is computed in `cost`.
"""
