"""Settings in files, as the secrets of containers are."""

import os
from pathlib import Path
from typing import Any

from pydantic_settings import PydanticBaseSettingsSource


class SecretFiles(PydanticBaseSettingsSource):
    """A source that reads a setting from the file that the variable of this setting with the suffix _FILE names."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Return the content of the file of a field, None if there is none. Raises `ValueError` if it is unreadable."""
        variable = f"{self.config['env_prefix']}{field_name.upper()}_FILE"
        path = os.environ.get(variable)
        if not path:
            return None, field_name, False
        try:
            return Path(path).read_text().strip(), field_name, False
        except OSError as error:
            raise ValueError(f"{variable} names {path}, which cannot be read: {error}") from error

    def __call__(self) -> dict[str, Any]:
        """Return the values of all fields that have a file."""
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}
