"""The leaderboard: every batch method and every cache of the registries at one budget, on the same inputs.

A batch method reads, for each query, as many key columns as `SHARE` of the keys; a cache stores `SHARE` of the bytes of
all keys and values. Parameters follow from that budget by the registries alone (`Batch.within`, `Contender.within`):
none was chosen by looking at an input. A method that is registered has a row here, and needs nothing else.

`errors` measures attention outputs, time and bytes; `decoding` a language model's loss and its answers; `board` makes
the table, its intervals and its ranking of them; `page` the files.
"""
