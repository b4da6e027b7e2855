"""The error that ends a batch run, under the name by which the modules of tables know it."""

from __future__ import annotations

from ibt_deploy.errors import BatchError

__all__ = ["BatchError"]
