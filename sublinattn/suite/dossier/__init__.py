"""The dossier of a GPU: whether the package is right there, and how fast, as one JSON record (`scripts/check_gpu`).

`driver` runs each step in a process of its own, with its own time limit, and writes the record anew after each;
`steps` names the steps and is what such a process runs; every other file is one step, a generator of JSON rows. A row
with `"ok": false` says that something is wrong, one with `"not_run"` why there is no measurement. `record` stores
records in `figures/gpu`, and `table` renders the newest for the README.

It needs CuPy and NumPy, and uses PyTorch, pytest and compute-sanitizer where they are there. It needs no network, no
build tools, and no installed package: a checkout is enough. In a rehearsal, NumPy stands in for the GPU.
"""
