"""Networks and their losses, written once in `keras.ops`; knows nothing of files or streams.

scope.py           values by name, and the layers that read them (dense, batch norm, random effect)
across.py          what processes that share a minibatch ask of each other
losses.py          reconstruction, cross-entropies, Kullback-Leibler terms
loss_weights.py    how the terms are balanced when the user gives no numbers
network.py         the contract between a network and the training loop
fixed_effects.py   AE, AEC, FE, FEC: tied autoencoder, optional classifier and adversary
random_effects.py  RE: encoder and decoder with one scale and shift per batch and unit
mixed_effects.py   ME: batch-blind encoder, batch-aware random-effects decoder
variational.py     the posterior of the scales and shifts
posteriors.py      the same posterior as TensorFlow Probability distributions, for users
build.py           a network from its configuration
"""
