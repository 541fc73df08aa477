"""The sender's side of a call: a function becomes an archive, a result becomes a value or an exception."""

from k8s_venv.calls.delivery import Delivery, remove_arguments
from k8s_venv.calls.packed import PackedCall
from k8s_venv.calls.packing import pack
from k8s_venv.calls.references import refer, to_document
from k8s_venv.calls.results import Result, open_result, parse_document, sealed_value

__all__ = [
    "Delivery",
    "PackedCall",
    "Result",
    "open_result",
    "pack",
    "parse_document",
    "refer",
    "remove_arguments",
    "sealed_value",
    "to_document",
]
