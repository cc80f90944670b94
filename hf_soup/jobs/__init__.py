"""Hugging Face Jobs: a function is called on each item in a job of its own; repositories on the Hub are the storage.

settings   what a job runs on, for how long, and what it costs at most
packing    a function, its data and items as files, in which nothing refers to this machine
answers    what jobs answer, as bytes
storage    the private repository of these files and of the answers
running    starts jobs, waits for them, and takes their answers
__main__   what a job runs
"""
