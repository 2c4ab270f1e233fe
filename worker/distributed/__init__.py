"""Training on several workers: rendezvous, process group, and the averaging of gradients."""
