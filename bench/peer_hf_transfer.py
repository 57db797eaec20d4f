"""Fetch URL to PATH with hf_transfer, at the settings that huggingface_hub used it with, and 16 connections."""

from __future__ import annotations

import sys

import hf_transfer

hf_transfer.download(sys.argv[1], sys.argv[2], max_files=16, chunk_size=10_485_760, parallel_failures=3, max_retries=5)
