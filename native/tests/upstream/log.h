// log.h - in place of llama.cpp's: its test of architectures says nothing here

#pragma once

#include "ggml.h"

enum { LOG_LEVEL_ERROR = 1, LOG_LEVEL_DEBUG = 5 };

#define LOG(...)     (void) 0
#define LOG_INF(...) (void) 0
#define LOG_ERR(...) (void) 0

inline void * common_log_main() { return nullptr; }
inline void   common_log_flush(void *) {}
inline void   common_log_set_verbosity_thold(int) {}
inline int    common_log_get_verbosity(ggml_log_level) { return 0; }
