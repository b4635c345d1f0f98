"""The native libraries and what is spoken with them: finding and loading them, `retain.h` in ctypes, llama.cpp's log."""
