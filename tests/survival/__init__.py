"""Kills the real command at every moment and compares what is left with undisturbed runs.

`python -m tests.survival --kills 150 --seed 0`, from the repository's folder. `grids` has
the sweeps that are killed, `plan` the kinds and times of the kills, `sandbox` starts and
kills the command and looks for what is left of it, `checks` compares, `__main__` does one
case after the other and makes the table. `together` kills several commands on one sweep.
`wandb_files` reads W&B's offline files.
"""
