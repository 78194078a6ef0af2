"""One fit: the loop, its backends, checkpoints, and the latents of all cells.

engine.py              what the loop asks of a backend
engine_tensorflow.py   TensorFlow: tapes in one `tf.function`
engine_jax.py          JAX: one donated `jit`
devices.py             one card a process, and how much of it
device_rows.py         rows in JAX's memory, made dense inside the step
engine_ranks.py        what differs where several processes share a minibatch
collective.py          what these processes tell each other
collective_tensorflow.py  through TensorFlow: NCCL or gRPC
meeting.py             these processes find each other
effects.py             random effects in host memory, updated row by row
loop.py                epochs, validation, roll-back, checkpoints
stopping.py            when a validation loss has stopped falling
checkpoint.py          what a killed fit continues from
fitted.py              a trained model on disk, and new cells through it
pca.py                 the PCA baseline, streamed
probe.py               how much batch a latent still holds, by fresh eyes
fit.py                 one model on one fold, from the atlas to its latents
fit_settings.py        how it is trained: the user's settings and the presets' rules
fit_inputs.py          what it reads besides its rows
fit_files.py           what it tells and leaves on disk
fit_results.py         latents of all cells, and a look at how blind they are
"""
