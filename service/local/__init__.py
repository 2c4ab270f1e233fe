"""The deployment on one machine, `normlab up`: supervisor, child processes, private Ray; and `normlab doctor`."""
