"""Run plan → trained adapter: the trainer, its batches, and what a run writes.

    train.run(config)               a run, in this process or in several
    train.prepare_only(config)      its plan on disk, for another launcher
    probe.run(config, plan, totals) its first steps, measured

Nothing is imported here: a rank sets its environment before torch is loaded.
"""
