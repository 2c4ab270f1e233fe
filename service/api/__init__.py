"""The routes, a module a noun. What they need of the process is in `context`, what they answer in `representations`."""
