"""The sender's side of a call: a function becomes an archive, a result becomes a value or an exception."""

from k8s_venv.calls.packed import PackedCall, Result, SentCall
from k8s_venv.calls.packing import pack, sent_call
from k8s_venv.calls.references import refer, to_document
from k8s_venv.calls.results import open_result, parse_document, sealed_value
from k8s_venv.calls.transfer import PayloadTransfer, call_files, remove_arguments, secret_contents, write_files

__all__ = [
    "PackedCall",
    "PayloadTransfer",
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
