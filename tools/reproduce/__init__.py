"""Measurements on data sets: which fields to keep, what scoring costs, which rows, what size.

A set is a folder with `encoded.npz` and `meta.json` (see `ctr.datasets`), or for the frontier
`longtail`, which is generated: tables of more than a million rows in all.

Field selection follows the ERASE benchmark (KDD 2024, Applied-Machine-Learning-Lab/ERASE): a
model is trained on all fields, the fields are scored on the validation split, a new model is
trained on the best k, and its test AUC counts. Vectors of 8 values, batches of 4096, Adam, no
better epoch ends a training. It differs where its runs would not be comparable:

- a method's k best fields are those of the model that was trained with the same seed, several
  seeds each, and methods are compared seed by seed; ERASE reports one run
- the network is an FM term beside an MLP of 64-64 without dropout, learning rate 0.003; ERASE
  trains several, their MLPs 32-16 with dropout, at 0.001
- Taylor takes its mean rows from the training split's counts; ERASE from the validation split
- "SFS, batch" is what ERASE runs: the gradient of the field's mask in the mean loss of a batch,
  absolute, over at most 100 batches. "SFS" takes it for each sample
- "Gauss–Newton" is no baseline but ours: Taylor's second-order term, `score_curved`, by which
  conversion ranks fields
- "permutation" shuffles a field's ids before the network itself; ERASE permutes for a random
  forest, on training data
"""
