"""The control app: what browsers and local programs see of a run, and the script that pages get."""
