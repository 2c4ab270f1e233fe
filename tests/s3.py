"""An S3 server over HTTP on a free port, for tests."""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import s3fs
from moto.server import ThreadedMotoServer


class S3Server:
    """An S3 server (moto) that keeps its objects while it is stopped."""

    def __enter__(self) -> Self:
        self._port = 0
        self.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address of the server, which stays the same after a restart."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start listening, on the same port as before."""
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        """Stop listening."""
        self._server.stop()

    def environment(self, folder: Path) -> dict[str, str]:
        """Return AWS's environment variables for this server; the credentials are a file in `folder`."""
        credentials = folder / "s3_credentials"
        credentials.write_text("[default]\naws_access_key_id = normlab\naws_secret_access_key = secret\n")
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_SHARED_CREDENTIALS_FILE": os.fspath(credentials),
        }

    def filesystem(self) -> s3fs.S3FileSystem:
        """Return a file system of the server's objects."""
        return s3fs.S3FileSystem(
            key="normlab", secret="secret", endpoint_url=self.url, use_listings_cache=False, skip_instance_cache=True
        )

    def make_bucket(self, name: str) -> str:
        """Create an empty bucket and return its URL."""
        self.filesystem().mkdir(name)
        return f"s3://{name}"
