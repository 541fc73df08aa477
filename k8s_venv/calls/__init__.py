"""The sender's side of a call: a function becomes an archive, a result becomes a value or an exception."""

from k8s_venv.calls.delivery import Delivery, call_files, remove_arguments, secret_contents, write_files
from k8s_venv.calls.packed import PackedCall, SentCall
from k8s_venv.calls.packing import pack, sent_call
from k8s_venv.calls.references import refer, to_document
from k8s_venv.calls.results import Result, open_result, parse_document, sealed_value

__all__ = [
    "Delivery",
    "PackedCall",
    "Result",
    "SentCall",
    "call_files",
    "open_result",
    "pack",
    "parse_document",
    "refer",
    "remove_arguments",
    "sealed_value",
    "secret_contents",
    "sent_call",
    "to_document",
    "write_files",
]
