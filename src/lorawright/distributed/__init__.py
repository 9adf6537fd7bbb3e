"""A run in several processes: launching them, joining them, files for accelerate and DeepSpeed.

launcher.run(plan, folder, stop, tell)     starts the processes of this machine
group.join(settings, device)               one of them meets the others
launch_files.files(config, device, folder) what accelerate and DeepSpeed read
scripts.write(scheduler, config, path)        a script for Slurm, SkyPilot or torchrun
"""
