"""The images: CIFAR-10 and a synthetic set, shared by the processes of a machine, and cut into batches."""
