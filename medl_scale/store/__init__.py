"""The prepared atlas: how it is made, what it is, and what is written into it later.

`prepare` turns inputs (`formats`, `readers`, `inputs`) into an atlas: `quality` and `genes` decide
what stays, `folds` who tests with whom, `shuffle` and `matrix` write it.
`atlas` describes one and reads its small columns; `latents` writes embeddings into it.
`places` says where a store lies, a path or a URL, `access` reaches it, `remote` writes to object storage.
`simulate` makes counts with a known truth. `atomic` keeps a crash from leaving half of anything.
"""
