"""The deployment on one machine, `normlab up`: supervisor, child processes, a private Ray, `normlab doctor`."""
