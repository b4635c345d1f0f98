// retention-attn.cpp - GGML_OP_RETENTION_ATTN on the CPU: how the op is split into pieces of work
//
// A piece is a tile, or, when tiles are few, a chunk of the cells of its cell list, whose partial results are merged in
// order. The cut depends on the lengths alone, so the result is the same for every number of threads.

#include "retention-attn.h"
#include "retention-cpu.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

using namespace retention;

// Not measured one by one: 64 chunks are four for each of 16 threads, so that one that is late costs little. With them 8 KV
// heads of 2,048 cells are read at 87% of the rate of reading at one token (bench-attention,
// docs/reference/performance-parts.md).
static constexpr int64_t N_CHUNKS   = 64;  // chunks that the cells of an op are cut into
static constexpr int64_t FEW_TILES  = 32;  // with fewer tiles than this, cell lists are cut
static constexpr int64_t CHUNK_UNIT = 128; // a chunk is a multiple of this: whole pages, and steps of the running softmax

// call fn(tile) for each KV head of each run of tokens of one sequence
template <typename F>
static void for_each_tile(const attn_op & op, F fn) {
    for (int64_t t0 = 0; t0 < op.n_tokens; ) {
        int64_t t1 = t0 + 1;
        while (t1 < op.n_tokens && t1 - t0 < op.tile_tokens && op.tokens[N_TOKEN*t1] == op.tokens[N_TOKEN*t0]) {
            ++t1;
        }
        for (int64_t head = 0; head < op.p.n_head_kv; ++head) {
            fn(attn_tile(op, t0, t1 - t0, head));
        }
        t0 = t1;
    }
}

// how cell lists are cut
struct attn_cut {
    int64_t n_tiles = 0;
    int64_t chunk   = INT64_MAX; // cells

    explicit attn_cut(const attn_op & op) {
        int64_t n_cells = 0;
        for_each_tile(op, [&](const attn_tile & tile) {
            n_tiles += 1;
            n_cells += tile.n_cells;
        });
        if (n_tiles < FEW_TILES) {
            chunk = std::max(CHUNK_UNIT, round_up((n_cells + N_CHUNKS - 1)/N_CHUNKS, CHUNK_UNIT));
        }
    }

    int64_t n_chunks(const attn_tile & tile) const {
        return tile.n_cells <= chunk ? 1 : (tile.n_cells + chunk - 1)/chunk;
    }
};

static size_t scratch_floats(const attn_op & op) {
    return std::max(decode_scratch(op), prompt_scratch(op));
}

// floats of a thread: scratch and the state of a tile, with cache lines between threads
static size_t thread_floats(const attn_op & op) {
    return scratch_floats(op) + attn_state::n_floats(op) + 64;
}

static void run_tile(const attn_op & op, const attn_tile & tile, float * scratch, attn_state & state, int64_t c0, int64_t c1) {
    state.reset(op);
    if (tile.n_rows < PROMPT_ROWS) {
        decode_tile(op, tile, scratch, state, c0, c1);
    } else {
        prompt_tile(op, tile, scratch, state, c0, c1);
    }
}

// state += other, row r
static void merge_row(const attn_op & op, attn_state & state, const attn_state & other, int64_t r) {
    if (other.m[r] == -INFINITY) {
        return;
    }

    const float m = std::max(state.m[r], other.m[r]);
    const float a = expf(state.m[r] - m);
    const float b = expf(other.m[r] - m);

    state.m[r] = m;
    state.l[r] = state.l[r]*a + other.l[r]*b;

    float       * x = state.acc + r*op.acc_stride;
    const float * y = other.acc + r*op.acc_stride;
    for (int64_t i = 0; i < op.n_embd_v; ++i) {
        x[i] = x[i]*a + y[i]*b;
    }
}

static void store_row(const attn_op & op, const attn_tile & tile, const attn_state & state, int64_t r, ggml_tensor * dst) {
    const int64_t t = tile.t0 + r/op.n_group;
    const int64_t h = tile.head*op.n_group + r%op.n_group;

    float m = state.m[r];
    float l = state.l[r];
    float f = 1.0f;
    if (op.sinks) {
        const float m_sink = std::max(m, op.sinks[h]);
        f = expf(m - m_sink);
        l = l*f + expf(op.sinks[h] - m_sink);
    }

    float       * out = (float *) ((char *) dst->data + h*dst->nb[1] + t*dst->nb[2]);
    const float * acc = state.acc + r*op.acc_stride;
    const float   inv = l > 0.0f ? f/l : 0.0f;
    for (int64_t i = 0; i < op.n_embd_v; ++i) {
        out[i] = acc[i]*inv;
    }
}

// write row (head, t) of src over a row of the pool's tensor
static void store_cell(const ggml_tensor * pool, int64_t row, const ggml_tensor * src, int64_t head, int64_t t) {
    char        * dst = (char *) pool->data + row*pool->nb[1];
    const float * x   = (const float *) ((const char *) src->data + head*src->nb[1] + t*src->nb[2]);
    if (pool->type == GGML_TYPE_F32) {
        memcpy(dst, x, pool->nb[1]);
    } else {
        ggml_get_type_traits_cpu(pool->type)->from_float(x, dst, pool->ne[0]);
    }
}

// write a thread's share of the new cells to their places in the pool
static void store_new(const attn_op & op, int ith, int nth) {
    for (int64_t i = ith; op.k_new && i < op.n_tokens*op.p.n_head_kv; i += nth) {
        const int64_t head = i%op.p.n_head_kv;
        const int64_t t    = i/op.p.n_head_kv;
        const auto  * token     = op.tokens + N_TOKEN*t;
        const auto  * cell_list = op.cell_lists + 2*(op.p.list_first + (int64_t) token[0]*op.p.list_stride + head);
        const int64_t cell      = cell_list[1] + token[2];
        const int64_t page      = op.pages[cell_list[0] + cell/op.p.page_size];
        const int64_t slot      = cell%op.p.page_size;
        store_cell(op.k, page*op.p.k_stride + slot,                op.k_new, head, t);
        store_cell(op.v, page*op.p.v_stride + op.p.v_first + slot, op.v_new, head, t);
    }
}

size_t ggml_retention_attn_work_size(const ggml_tensor * dst, int n_threads) {
    const attn_op op(dst);

    return (n_threads*thread_floats(op) + (N_CHUNKS + FEW_TILES)*attn_state::n_floats(op))*sizeof(float);
}

void ggml_compute_forward_retention_attn(const ggml_compute_params * params, ggml_tensor * dst) {
    const attn_op  op(dst);
    const attn_cut cut(op);

    float * scratch  = (float *) params->wdata + params->ith*thread_floats(op);
    float * partials = (float *) params->wdata + params->nth*thread_floats(op);

    attn_state whole(op, scratch + scratch_floats(op));
    const auto partial = [&](int64_t i) { return attn_state(op, partials + i*attn_state::n_floats(op)); };

    store_new(op, params->ith, params->nth);

    // threads take the next piece of work as they become free: cell lists have very different lengths
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);

    int64_t mine = params->ith;
    int64_t at   = 0;
    for_each_tile(op, [&](const attn_tile & tile) {
        const int64_t n = cut.n_chunks(tile);

        for (int64_t i = 0; i < n; ++i, ++at) {
            if (at != mine) {
                continue;
            }
            mine = ggml_threadpool_chunk_add(params->threadpool, 1);

            if (n == 1) {
                run_tile(op, tile, scratch, whole, 0, tile.n_cells);
                for (int64_t r = 0; r < tile.n_rows; ++r) {
                    store_row(op, tile, whole, r, dst);
                }
            } else {
                attn_state part = partial(at);
                run_tile(op, tile, scratch, part, i*cut.chunk, std::min((i + 1)*cut.chunk, tile.n_cells));
            }
        }
    });

    if (cut.n_tiles >= FEW_TILES) {
        return;
    }

    ggml_barrier(params->threadpool);

    at = 0;
    int64_t row = 0;
    for_each_tile(op, [&](const attn_tile & tile) {
        const int64_t n = cut.n_chunks(tile);

        const int64_t first = at;
        at += n;
        if (n == 1) {
            return; // it was stored above
        }
        for (int64_t r = 0; r < tile.n_rows; ++r, ++row) {
            if (row%params->nth != params->ith) {
                continue;
            }
            attn_state sum = partial(first);
            for (int64_t i = 1; i < n; ++i) {
                merge_row(op, sum, partial(first + i), r);
            }
            store_row(op, tile, sum, r, dst);
        }
    });
}
