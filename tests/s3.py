"""A server that speaks S3 over HTTP, on a port that the kernel picks."""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import s3fs
from moto.server import ThreadedMotoServer


class S3Server:
    """Keeps what it holds while it is away."""

    def __enter__(self) -> Self:
        self._port = 0
        self.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens, or would."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, where it did before."""
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        """Listen no more."""
        self._server.stop()

    def environment(self, folder: Path) -> dict[str, str]:
        """What leads a process there: the variables of AWS, the credentials as a file in `folder`."""
        credentials = folder / "s3_credentials"
        credentials.write_text("[default]\naws_access_key_id = normlab\naws_secret_access_key = secret\n")
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_SHARED_CREDENTIALS_FILE": os.fspath(credentials),
        }

    def filesystem(self) -> s3fs.S3FileSystem:
        """Its objects, for a test to look at."""
        return s3fs.S3FileSystem(
            key="normlab", secret="secret", endpoint_url=self.url, use_listings_cache=False, skip_instance_cache=True
        )

    def make_bucket(self, name: str) -> str:
        """An empty bucket; returns its URL."""
        self.filesystem().mkdir(name)
        return f"s3://{name}"
