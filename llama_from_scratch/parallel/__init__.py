"""How one model is laid over several processes, outside the model's own code.

`plan` is the table of what is cut how, `apply` shards a model after it, `ranks` are the processes that `torchrun`
started; `train` uses them. Nothing is imported here, since `apply` brings in much of torch. What many GPUs cost, on
paper, is in `cost`.
"""
