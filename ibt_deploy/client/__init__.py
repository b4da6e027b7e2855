"""A typed client of the HTTP service, with the interface of a :class:`~ibt_deploy.predictor.Predictor`.

>>> from ibt_deploy.client import Client
>>> Client("https://ecg.example.org").predict("record.hea").findings  # doctest: +SKIP
"""

from ibt_deploy.client.remote import Client as Client
from ibt_deploy.client.remote import RemoteStep as RemoteStep
from ibt_deploy.errors import ServerError as ServerError

__all__ = ["Client", "RemoteStep", "ServerError"]
