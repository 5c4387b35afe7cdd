"""Starting the ranks of a task under mpirun, and watching over them until the last process is gone.

    python -m tasks.launch MODULE [--run-directory DIR]

Read `supervisor` first: it is the whole story; `rank` is what each rank starts with.
"""
