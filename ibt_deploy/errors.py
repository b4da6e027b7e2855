"""The exception hierarchy, with messages that are safe to show although they quote files.

::

    IbtError
    ├── InputError             the input is refused; carries a machine-readable ``code``
    │   ├── UnsupportedFormat  no reader knows this content
    │   ├── MalformedFile      the format is known, the file is damaged or contradicts itself
    │   ├── MissingLeads       leads are missing that cannot be derived, or one occurs twice
    │   ├── BadUnits           the unit or the gain is missing, unknown or implausible
    │   ├── BadSampling        the sampling rate is missing or not a usable whole number
    │   ├── TooShort           not enough valid signal, or no row
    │   ├── TooLong            more hours than the model was built for
    │   └── BadRows            hourly rows that are out of order, doubled, not numeric or implausible
    ├── BundleError            a model bundle is incomplete, altered, or needs preprocessing we do not have
    ├── DeviceError            the requested device is not available
    ├── BatchError             a batch run cannot start or continue; completed parts are kept
    ├── ServerError            a service cannot be reached, stays busy, or does not answer as one
    ├── MissingExtra           an optional part of the package is not installed
    ├── RecipeError            a training recipe holds an unknown key or an impossible value
    ├── DataError              a prepared data set, split or checkpoint is unusable
    └── ExportError            a trained network cannot become a bundle, or its graph does not match it
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import ClassVar


class IbtError(Exception):
    """Root of every error that ibt raises on purpose."""


class InputError(IbtError):
    """An input that is refused.

    Parameters
    ----------
    message
        One line: what is wrong and, where that helps, what to do. It may quote a file: unprintable characters
        in it are escaped, and line breaks joined.
    where
        The file, record or row concerned; readers add it.
    code
        Machine-readable reason, snake_case; each class has a default.
    """

    default_code: ClassVar[str] = "input_error"

    def __init__(self, message: str, *, where: str | None = None, code: str | None = None) -> None:
        self.message = message if message.isprintable() else one_line(message)
        super().__init__(self.message)
        self.where = where
        self.code = code or self.default_code

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    def at(self, where: str) -> InputError:
        """Return this error with its place filled in, unless it already names one."""
        if self.where is None:
            self.where = where
        return self


class UnsupportedFormat(InputError):
    """No reader recognises the content."""

    default_code = "unsupported_format"


class MalformedFile(InputError):
    """A known format, but damaged or contradicting itself."""

    default_code = "malformed_file"


class MissingLeads(InputError):
    """Leads are missing that cannot be derived, or a lead occurs twice."""

    default_code = "missing_leads"


class BadUnits(InputError):
    """Unit or gain missing, unknown or implausible."""

    default_code = "bad_units"


class BadSampling(InputError):
    """Sampling rate missing or unusable."""

    default_code = "bad_sampling"


class TooShort(InputError):
    """Not enough valid signal, or no row at all."""

    default_code = "too_short"


class TooLong(InputError):
    """More hours than the model has positions for."""

    default_code = "too_long"


class BadRows(InputError):
    """Hourly rows that are out of order, doubled, not numeric or implausible."""

    default_code = "bad_rows"


class BundleError(IbtError):
    """A bundle that cannot be trusted or is not understood."""


class DeviceError(IbtError):
    """The requested device is not available."""


class BatchError(IbtError):
    """A batch run that cannot start or continue; it can be resumed unless the message says otherwise."""


class ServerError(IbtError):
    """The server cannot be reached, stays busy, or does not answer as an ibt service does."""


class MissingExtra(IbtError):
    """An optional part of the package is not installed."""


class RecipeError(IbtError):
    """A training recipe that holds an unknown key or an impossible value."""


class DataError(IbtError):
    """A prepared data set, split or checkpoint that is missing, damaged or contradicts itself."""


class ExportError(IbtError):
    """A trained network that cannot become a bundle, or whose graph computes something else."""


EXTRA_OF: dict[str, str] = {
    "torch": "train",
    "onnx": "train",
    "onnxscript": "train",
    "safetensors": "train",
    "sklearn": "train",
    "matplotlib": "plot",
    "pyarrow": "batch",
    "pydicom": "formats",
    "highdicom": "sr",
    "bentoml": "serve",
    "granian": "serve",
    "starlette": "serve",
    "pydantic": "serve",
    "python_multipart": "serve",
    "prometheus_client": "serve",
    "markdown_it": "serve",
    "duckdb": "batch",
    "pint": "batch",
    "ray": "ray",
    "onnxruntime": "",
    "pandas": "",
}
"""Extra of the package that provides each module; empty for modules that every installation has."""


def missing_extra(error: ModuleNotFoundError, purpose: str) -> MissingExtra:
    """The error that says which extra to install.

    Parameters
    ----------
    error
        What the import raised.
    purpose
        What the module is needed for, e.g. ``"--plot"``.

    Raises
    ------
    ModuleNotFoundError
        ``error`` itself, if no extra provides the module: then something is broken, not missing.
    """
    module = (error.name or "").partition(".")[0]
    if module not in EXTRA_OF:
        raise error
    extra = EXTRA_OF[module]
    install = f"pip install 'ibt[{extra}]'" if extra else "pip install ibt"
    return MissingExtra(f"{purpose} needs {module}, which is not installed: {install}")


def require(purpose: str, *modules: str) -> None:
    """Check that ``modules`` are installed before long work begins; none of them is imported.

    Raises
    ------
    MissingExtra
        One of them is missing.
    """
    for module in modules:
        if find_spec(module) is None:
            raise missing_extra(ModuleNotFoundError(name=module), purpose)


def printable(text: str) -> str:
    r"""``text`` with every unprintable character escaped: ``\x1b`` could recolour a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def first_line(error: BaseException) -> str:
    """First line of an error message, which another package may have written at length; else its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def one_line(text: object) -> str:
    """``text`` as one printable line."""
    return printable(" ".join(str(text).split()))
