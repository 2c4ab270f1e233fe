"""What `normlab up` and `normlab demo` print once the service is ready."""

from service.cli.output import command_name
from service.client import Client, ClientError
from service.local.supervisor import Supervisor
from service.settings import Settings


def writing_client(url: str, settings: Settings, retry_s: float = 1) -> Client:
    """Connect to the service of these settings, with the first of its tokens that may write."""
    token = next((token for token, (_, writes) in settings.tokens.items() if writes), None)
    return Client(url, token, retry_s=retry_s)


def introduction(supervisor: Supervisor, settings: Settings) -> str:
    """A summary of the address, the folders and the Ray cluster of the service."""
    if supervisor.slots is None:
        ray = f"{settings.ray_address}, an existing cluster"
    else:
        ray = "private, on the GPUs" if settings.gpus_per_worker else f"private, {supervisor.slots} CPU slots"
    return "\n".join(
        [
            f"Dashboard: {supervisor.url}   (API: {supervisor.url}/docs)",
            f"  home   {settings.home}",
            f"  data   {settings.data_dir}",
            f"  ray    {ray}",
            f"  logs   {settings.home / 'logs'}",
        ]
    )


def first_steps(supervisor: Supervisor, settings: Settings) -> str:
    """Commands to begin with, where the service has no experiment; else an empty string."""
    try:
        with writing_client(supervisor.url, settings, retry_s=0) as client:
            if any(client.experiments.list(max_experiments=1)):
                return ""
    except ClientError:
        return ""  # The service works without this hint.
    command = command_name()
    return "\n".join(
        [
            f"`{command} experiment import --example` adds a finished study.",
            f"`{command} demo` trains for a few minutes.",
        ]
    )
