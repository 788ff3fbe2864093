"""A fault tool for the store: what a disk, a kernel and a power supply may do to it, on purpose and repeatably.

    shim.c, shim   what the store asks of the disk: logged in order, or made to fail
    disk           the disk as it may be found after a power cut at any point of such a log
    workload       the programs whose disk it is; what they were told stands in the same log
    power          cut, open again, compare with what was acknowledged
    errors         a call that fails, each in turn; a file system that is full
    damage         flipped bits and crafted files
    kills          four processes on one file, and SIGKILL at any moment
    machine        stores of several processes, and a dict that says what each must answer
    nursery        the processes of these two

``python -m tests.torture --minutes 10 --seed 1`` runs all of it and prints a table; ``test_torture`` a little.
"""
