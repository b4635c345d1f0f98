// retention-attn.cpp - GGML_OP_RETENTION_ATTN on the CPU: how the op is split into pieces of work
//
// A piece is a tile, or, when tiles are few, a chunk of the cells of its cell list, whose partial results are merged in
// order. The cut depends on the lengths alone, so the result is the same for every number of threads.

#include "retention-attn.h"
#include "retention-cpu.h"
#include "retention-recall.h"

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

// How tiles that are cut share the archive out. Where there are too few (token, KV head) for the threads, its cell lists are cut
// too; each chunk has to find as many cells as all of the list, so they are as few as may be. Otherwise several tokens go through a
// list at once. What is found does not depend on it.
struct archive_cut {
    int64_t chunk     = INT64_MAX; // cells
    int64_t n_at_once = 1;         // tokens

    archive_cut(const attn_op & op, int nth) {
        int64_t n_units = 0;
        int64_t n_cells = 0;
        for_each_tile(op, [&](const attn_tile & tile) {
            n_units += tile.n_t;
            n_cells += tile.n_t*archive_list(op, tile).n_cells;
        });
        if (n_units < 2*nth) {
            chunk = std::max(LEAST, round_up((n_cells + 4*nth - 1)/(4*nth), CHUNK_UNIT));
        } else {
            n_at_once = std::min(std::max<int64_t>(1, n_units/(4*nth)), recall_buffers::TOKENS);
        }
    }

    static constexpr int64_t LEAST = 4*CHUNK_UNIT;

    static int64_t n_chunks_max(int nth) { return 6*nth; } // 4 a thread, and a shorter one at the end of each list

    bool cuts() const { return chunk != INT64_MAX; }

    int64_t n_chunks(const archive_list & list) const { return (list.n_cells + chunk - 1)/chunk; }
};

// the cells that were found in a chunk
struct found_cells {
    int32_t * n;
    float   * scores; // [recall_max]
    int32_t * cells;  // [recall_max]

    static size_t n_floats(const attn_op & op) { return 1 + 2*(size_t) op.p.recall_max; }

    found_cells(const attn_op & op, float * base) :
        n((int32_t *) base), scores(base + 1), cells((int32_t *) (base + 1 + op.p.recall_max)) {}
};

static size_t scratch_floats(const attn_op & op) {
    return std::max(decode_scratch(op), prompt_scratch(op));
}

// floats of a thread: scratch and the state of a tile, with cache lines between threads
static size_t thread_floats(const attn_op & op) {
    return scratch_floats(op) + attn_state::n_floats(op) + recall_buffers::n_floats(op) + 64;
}

static void run_tile(const attn_op & op, const attn_tile & tile, float * scratch, attn_state & state, int64_t c0, int64_t c1) {
    state.reset(op);
    if (tile.n_rows < PROMPT_ROWS) {
        decode_tile(op, tile, scratch, state, c0, c1);
    } else {
        prompt_tile(op, tile, scratch, state, c0, c1);
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

    const size_t n_found = op.archive_k ? archive_cut::n_chunks_max(n_threads)*found_cells::n_floats(op) : 0;

    return (n_threads*thread_floats(op) + (N_CHUNKS + FEW_TILES)*attn_state::n_floats(op) + n_found)*sizeof(float);
}

// a thread's part of the op
struct attn_worker {
    const ggml_compute_params * params;
    ggml_tensor * dst;

    const attn_op  op;
    const attn_cut cut;

    float * scratch;
    float * partials;

    attn_worker(const ggml_compute_params * params, ggml_tensor * dst) :
        params(params), dst(dst), op(dst), cut(op),
        scratch ((float *) params->wdata + params->ith*thread_floats(op)),
        partials((float *) params->wdata + params->nth*thread_floats(op)) {}

    attn_state partial(int64_t i) const { return attn_state(op, partials + i*attn_state::n_floats(op)); }

    found_cells found(int64_t i) const {
        return found_cells(op, partials + (N_CHUNKS + FEW_TILES)*attn_state::n_floats(op) + i*found_cells::n_floats(op));
    }

    recall_buffers buffers() const { return recall_buffers(op, scratch + scratch_floats(op) + attn_state::n_floats(op)); }

    // Threads take the next piece of work as they become free: cell lists have very different lengths. Call fn(index, piece...)
    // for this thread's pieces of for_each(visit), which visits all in order. What was shared before must be done.
    template <typename E, typename F>
    void share(E for_each, F fn) {
        if (params->ith == 0) {
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        ggml_barrier(params->threadpool);

        int64_t mine = params->ith;
        int64_t at   = 0;
        for_each([&](auto &&... piece) {
            if (at++ == mine) {
                mine = ggml_threadpool_chunk_add(params->threadpool, 1);
                fn(at - 1, piece...);
            }
        });
    }

    void run() {
        store_new(op, params->ith, params->nth);
        attend();
        if (cut.n_tiles >= FEW_TILES) {
            return;
        }
        if (op.archive_k) {
            const archive_cut archive(op, params->nth);
            if (archive.cuts()) {
                ggml_barrier(params->threadpool);
                find(archive);
            }
            ggml_barrier(params->threadpool);
            merge(&archive);
        } else {
            ggml_barrier(params->threadpool);
            merge(nullptr);
        }
    }

    // attention to the cells held; of tiles that are cut into partial states
    void attend() {
        attn_state whole(op, scratch + scratch_floats(op));

        share([&](auto visit) {
            for_each_tile(op, [&](const attn_tile & tile) {
                const int64_t n = cut.n_chunks(tile);
                for (int64_t i = 0; i < n; ++i) {
                    visit(tile, i, n);
                }
            });
        }, [&](int64_t at, const attn_tile & tile, int64_t i, int64_t n) {
            if (is_merged(n)) {
                attn_state part = partial(at);
                run_tile(op, tile, scratch, part, i*cut.chunk, std::min((i + 1)*cut.chunk, tile.n_cells));
                return;
            }
            run_tile(op, tile, scratch, whole, 0, tile.n_cells);
            for (int64_t t = 0; op.archive_k && t < tile.n_t; t += recall_buffers::TOKENS) {
                const int64_t n_t = std::min(recall_buffers::TOKENS, tile.n_t - t);
                attn_state rows = whole.from(op, t*op.n_group);
                const recall_buffers buf = buffers();
                for (int64_t r = 0; r < n_t*op.n_group; ++r) {
                    buf.ref[r] = rows.log_sum(r);
                }
                recall_tokens(op, tile, t, n_t, buf).recall(rows);
            }
            for (int64_t r = 0; r < tile.n_rows; ++r) {
                store_row(op, tile, whole, r, dst);
            }
        });
    }

    // whether the result of a tile of n chunks is stored by merge()
    bool is_merged(int64_t n) const { return n > 1 || (op.archive_k && cut.n_tiles < FEW_TILES); }

    // call fn(tile, its first partial state, number of them) for the tiles that merge() stores
    template <typename F>
    void for_each_merged(F fn) const {
        int64_t at = 0;
        for_each_tile(op, [&](const attn_tile & tile) {
            const int64_t n = cut.n_chunks(tile);
            if (is_merged(n)) {
                fn(tile, at, n);
            }
            at += n;
        });
    }

    // for each (token, KV head) the best cells of each chunk of the archive
    void find(const archive_cut & archive) {
        share([&](auto visit) {
            for_each_merged([&](const attn_tile & tile, int64_t first, int64_t n) {
                const archive_list list(op, tile);
                for (int64_t t = 0; t < tile.n_t; ++t) {
                    for (int64_t i = 0; i < archive.n_chunks(list); ++i) {
                        visit(tile, first, n, list, t, i);
                    }
                }
            });
        }, [&](int64_t at, const attn_tile & tile, int64_t first, int64_t n, const archive_list & list, int64_t t, int64_t i) {
            const recall_buffers buf = buffers();
            set_ref(buf, first, n, t, 1);
            best_cells best;
            recall_tokens(op, tile, t, 1, buf).find(i*archive.chunk, std::min((i + 1)*archive.chunk, list.n_cells), &best);

            const found_cells dst = found(at);
            *dst.n = (int32_t) best.size;
            std::copy_n(best.scores, best.size, dst.scores);
            std::copy_n(best.cells,  best.size, dst.cells);
        });
    }

    // the same to the bit whether lists are cut, which depends on the threads, or not
    void set_ref(const recall_buffers & buf, int64_t first, int64_t n, int64_t t, int64_t n_t) const {
        for (int64_t r = 0; r < n_t*op.n_group; ++r) {
            buf.ref[r] = log_sum(first, n, t*op.n_group + r);
        }
    }

    // log of the sum of exp(logits) of row r over n partial states
    float log_sum(int64_t first, int64_t n, int64_t r) const {
        float m = -INFINITY;
        for (int64_t i = 0; i < n; ++i) {
            m = std::max(m, partial(first + i).m[r]);
        }
        float l = 0.0f;
        for (int64_t i = 0; i < n && m > -INFINITY; ++i) {
            l += partial(first + i).l[r]*expf(partial(first + i).m[r] - m);
        }
        return l > 0.0f ? m + logf(l) : 0.0f;
    }

    // add the partial states up, and what is recalled
    void merge(const archive_cut * archive) {
        int64_t unit = 0;
        int64_t at   = 0; // in what find() found
        for_each_merged([&](const attn_tile & tile, int64_t first, int64_t n) {
            const int64_t step = archive ? archive->n_at_once : 1;
            for (int64_t t = 0; t < tile.n_t; t += step, ++unit) {
                const int64_t n_t     = std::min(step, tile.n_t - t);
                const int64_t n_found = archive && archive->cuts() ? archive->n_chunks(archive_list(op, tile)) : 0;
                at += n_found;
                if (unit%params->nth != params->ith) {
                    continue;
                }
                const recall_buffers buf = buffers();
                if (archive) {
                    set_ref(buf, first, n, t, n_t); // of the parts, before they are added up
                }
                attn_state sum = partial(first).from(op, t*op.n_group);
                for (int64_t i = 1; i < n; ++i) {
                    merge_rows(op, sum, partial(first + i).from(op, t*op.n_group), n_t*op.n_group);
                }
                if (archive) {
                    const recall_tokens tokens(op, tile, t, n_t, buf);
                    if (archive->cuts()) {
                        add_found(tokens, at - n_found, n_found, sum);
                    } else {
                        tokens.recall(sum);
                    }
                }
                for (int64_t r = t*op.n_group; r < (t + n_t)*op.n_group; ++r) {
                    store_row(op, tile, partial(first), r, dst);
                }
            }
        });
    }

    // attend a token to the best of what was found for it in the chunks of a list
    void add_found(const recall_tokens & token, int64_t first, int64_t n, attn_state & state) const {
        best_cells best(token.buf.best, token.list.n_recall);
        for (int64_t i = 0; i < n; ++i) {
            const found_cells part = found(first + i);
            for (int32_t c = 0; c < *part.n; ++c) {
                best.add(part.scores[c], part.cells[c]);
            }
        }
        best.prune();
        token.add(0, best, state);
    }
};

void ggml_compute_forward_retention_attn(const ggml_compute_params * params, ggml_tensor * dst) {
    attn_worker(params, dst).run();
}
