"""Turns a child of ours into a server that dies with its parent: the last step before exec.

Run by path and with the standard library alone, before the server's own program replaces it:
`child.py PARENT_PID DEATH_SIGNAL UID GID PROGRAM ARGUMENTS...`, UID -1 for "stay who you are".

The order matters. The kernel forgets the death signal whenever credentials change, so it is set
after them; and a parent that died before it was set would never be reported, so the parent is
looked at after it.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_GET_SECUREBITS = 27
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2

_libc = ctypes.CDLL(None, use_errno=True)


class CapabilityHeader(ctypes.Structure):
    """`struct __user_cap_header_struct` of capset(2)."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class CapabilityWord(ctypes.Structure):
    """`struct __user_cap_data_struct` of capset(2): 32 capabilities each."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _path_capability(words: ctypes.Array[CapabilityWord]) -> int | None:
    """Return the weakest capability we hold that lets another uid walk through closed folders."""
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        if words[0].permitted & (1 << capability):
            return capability
    return None


def _keep_capabilities() -> None:
    """Let capabilities survive the change of uid.

    Postgres asks access(2) whether its programs are executable, and that call forgets the
    capabilities of everybody but root unless this bit is set, which stays set after exec. A
    container that may not set it still works, as long as its folders are not closed.
    """
    bits = _libc.prctl(PR_GET_SECUREBITS, 0, 0, 0, 0)
    if _libc.prctl(PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP, 0, 0, 0) != 0:
        _checked(_libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))


def become(uid: int, gid: int) -> None:
    """Change to another uid and keep nothing of root but the right to walk to our own folder.

    A clone under a home of mode 700 is out of reach for the other uid otherwise, and the folders
    above the clone are not ours to open.
    """
    header = CapabilityHeader(CAPABILITY_VERSION_3, 0)
    words = (CapabilityWord * 2)()
    _checked(_libc.capget(ctypes.byref(header), words))
    capability = _path_capability(words)
    _keep_capabilities()
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    bits = 0 if capability is None else 1 << capability
    words[0] = CapabilityWord(bits, bits, bits)
    words[1] = CapabilityWord(0, 0, 0)
    _checked(_libc.capset(ctypes.byref(header), words))
    if capability is not None:
        _checked(_libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0))


def main(arguments: list[str]) -> None:
    parent, death_signal, uid, gid = map(int, arguments[:4])
    if uid != -1:
        become(uid, gid)
    _checked(_libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0))
    if os.getppid() != parent:
        sys.exit("the parent was gone before its server had started")
    os.execv(arguments[4], arguments[4:])


if __name__ == "__main__":
    main(sys.argv[1:])
