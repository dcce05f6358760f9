"""Payloads at the edge of what can be read."""

from __future__ import annotations

UNREADABLE = [
    "no json",
    "[]",
    '"text"',
    '{"type":7}',
    '{"type":""}',
    '{"type":"' + "x" * 65 + '"}',
    '{"type":"a","name":"' + "x" * 256 + '","meta":{}}',
    '{"type":"a","name":"b","meta":[]}',
    '{"type":"a","name":"b","meta":{"x":NaN}}',
    '{"type":"a","name":"b","meta":{"x":-Infinity}}',
    '{"type":"a","name":"b","meta":{"x":1e999999}}',
    '{"type":"a","name":"b","meta":{"x":"\\u0000"}}',
    '{"type":"a","name":"b","meta":{"\\u0000":1}}',
    '{"type":"a\\u0000","name":"b","meta":{}}',
    '{"type":"a","name":"b","meta":{"x":"\\ud800"}}',
    '{"type":"a","name":"b","meta":{"x":1},"meta":{}}}',
    '{"type":"a","name":"b","meta":' + '{"a":' * 600 + "1" + "}" * 600 + "}",
    "\x00",
]
READABLE = [
    '{"type":"a","name":"b","meta":{"x":"\\\\u0000"}}',
    '{"type":"a","name":"b","meta":{"x":"\\ud83d\\ude00"}}',
    '{"type":"a","name":"b","meta":{"x":1e300,"y":' + "9" * 4000 + "}}",
    '{"name":"b"}',
    '{"type":"a","name":"b","meta":{},"more":1}',
]
