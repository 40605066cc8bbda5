"""What EGL offers and what an OpenGL context renders on, asked of the system's own libraries."""

from __future__ import annotations

import ctypes
from typing import Any

from generation.errors import RendererError

_GL_RENDERER, _EGL_EXTENSIONS, _EGL_CUDA_DEVICE = 0x1F01, 0x3055, 0x323A


def current_device() -> str:
    """Return what this thread's current OpenGL context renders on, as its driver calls it.

    For example "NVIDIA H200/PCIe/SSE2". Raises RendererError where there is no context.
    """
    get_string = _function("glGetString", ctypes.c_char_p, ctypes.c_uint)
    name = get_string(_GL_RENDERER) if get_string else None
    if name is None:
        raise RendererError("no OpenGL context is current in this thread")
    device: str = name.decode(errors="replace")
    return device


def has_cuda_device() -> bool:
    """Return whether EGL offers a context on CUDA device 0. Raises RendererError without EGL."""
    pointer, size = ctypes.c_void_p, ctypes.c_int
    query = _function("eglQueryDevicesEXT", ctypes.c_uint, size, pointer, pointer)
    describe = _function("eglQueryDeviceStringEXT", ctypes.c_char_p, pointer, size)
    attribute = _function("eglQueryDeviceAttribEXT", ctypes.c_uint, pointer, size, pointer)
    count = size(0)
    if not (query and describe and attribute and query(0, None, ctypes.byref(count))):
        return False
    devices = (pointer * count.value)()
    query(count.value, devices, ctypes.byref(count))
    for device in devices:
        number = ctypes.c_ssize_t(-1)
        # Some drivers crash when asked for the number of a device that is not this user's; to the
        # first question they answer nothing.
        if describe(device, _EGL_EXTENSIONS):
            attribute(device, _EGL_CUDA_DEVICE, ctypes.byref(number))
        if number.value == 0:
            return True
    return False


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """Return an OpenGL or EGL function, or None where it is unknown."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError as error:
        raise RendererError(
            f"no EGL ({error}); install the GPU's driver, or Mesa (Debian: libegl1 libgl1-mesa-dri)"
        ) from error
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    address = egl.eglGetProcAddress(name.encode())
    return ctypes.CFUNCTYPE(result, *arguments)(address) if address else None
