// retention-prompt.metal - retention attention of many tokens on Metal
//
// A threadgroup has a tile of rows, the query heads of one KV head for a run of tokens, and multiplies them as 8x8 matrices
// with blocks of cells that it gathers into its memory.

// copy numbers of a block of cells into the threadgroup's memory as rows of n, 0 beyond their length and beyond the cells
template <typename T, bool is_k>
static inline void load_block(
        constant retention_attn_args & args,
        device const char * src,
        cells_of cells,
        int c0,
        int n_cells,
        int n_embd,
        int n,
        threadgroup T * dst,
        ushort thread_index) {
    const int n_threads = args.n_rows/8*N_SIMDWIDTH;
    for (int i = thread_index; i < args.n_block*(n/4); i += n_threads) {
        const int cell = c0 + i/(n/4);
        const int j    = 4*(i%(n/4));

        float4 x = float4(0.0f);
        if (cell < n_cells && j < n_embd) {
            x = is_k ? load4(K_TYPE, src + k_offset(args, cells, cell), j) : load4(V_TYPE, src + v_offset(args, cells, cell), j);
        }
        for (short e = 0; e < 4; ++e) {
            dst[(cell - c0)*n + j + e] = T(x[e]);
        }
    }
}

// T, T8x8: what a block of cells is held in; n_v8: columns of 8x8 matrices of V, at least n_embd_v/8
// A simdgroup has 8 rows, and each row's softmax belongs to four of its lanes.
template <typename T, typename T8x8, short n_v8>
kernel void kernel_retention_attn_prompt(
        constant retention_attn_args & args,
        device const char * q,
        device const char * k,
        device const char * v,
        device const int32_t * pages,
        device const int32_t * cell_lists,
        device const int32_t * tokens,
        device const float * sinks,
        device char * dst,
        threadgroup char * shared RETENTION_SHARED,
        uint3  tgpig[[threadgroup_position_in_grid]],
        ushort tiitg[[thread_index_in_threadgroup]],
        ushort lane[[thread_index_in_simdgroup]],
        ushort sg[[simdgroup_index_in_threadgroup]]) {
    const int n_group     = args.n_head/args.n_head_kv;
    const int tile_tokens = args.n_rows/n_group;
    const int head_kv     = tgpig.y;
    const int t0          = tgpig.x*tile_tokens;
    const int t1          = min(args.n_tokens, t0 + tile_tokens);
    const int n_threads   = args.n_rows/8*N_SIMDWIDTH;

    const int n_k = (args.n_embd_k + 7)/8*8;
    const int n_v = 8*n_v8;
    const int n_c = args.n_block;

    threadgroup float * s_q     = (threadgroup float *) shared;                // [n_rows, n_k]
    threadgroup float * s_p     = s_q + args.n_rows*n_k;                       // [n_rows, n_c] logits, then their weights
    threadgroup float * s_scale = s_p + args.n_rows*n_c + 64*sg;               // [8, 8], one per simdgroup
    threadgroup T     * s_cells = (threadgroup T *) (s_p + args.n_rows*n_c + 8*args.n_rows); // [n_c, max(n_k, n_v)]

    for (int i = tiitg; i < args.n_rows*n_k; i += n_threads) {
        const int r = i/n_k;
        const int t = t0 + r/n_group;
        const int j = i%n_k;
        const int h = head_kv*n_group + r%n_group;
        s_q[i] = t < t1 && j < args.n_embd_k ? ((device const float *) (q + h*args.nb_q1 + t*args.nb_q2))[j] : 0.0f;
    }
    for (short i = lane; i < 64; i += N_SIMDWIDTH) {
        s_scale[i] = 0.0f;
    }

    simdgroup_float8x8 out[n_v8];
    for (short j = 0; j < n_v8; ++j) {
        out[j] = make_filled_simdgroup_matrix<float, 8>(0.0f);
    }

    const short own   = lane/4;         // row of the simdgroup
    const int   row   = 8*sg + own;     // row of the tile
    const int   token = t0 + row/n_group;

    float m = NONE;
    float l = 0.0f;

    // a tile's tokens are of one sequence, or of few: run after run, as all rows of a block need the same cells
    for (int a = t0; a < t1; ) {
        int b     = a;
        int n_new = 0;
        while (b < t1 && tokens[3*b] == tokens[3*a]) {
            n_new = max(n_new, int(tokens[3*b + 1]));
            ++b;
        }

        const cells_of cells   = find_cells(args, pages, cell_lists, tokens[3*a], head_kv);
        const int      n_cells = cells.n_old + n_new;
        const int      n_seen  = token >= a && token < b ? cells.n_old + tokens[3*token + 1] : 0; // cells that the row sees

        for (int c0 = 0; c0 < n_cells; c0 += n_c) {
            threadgroup_barrier(mem_flags::mem_threadgroup);
            load_block<T, true>(args, k, cells, c0, n_cells, args.n_embd_k, n_k, s_cells, tiitg);
            threadgroup_barrier(mem_flags::mem_threadgroup);

            for (int c = 0; c < n_c; c += 8) {
                simdgroup_float8x8 logits = make_filled_simdgroup_matrix<float, 8>(0.0f);
                for (int i = 0; i < n_k; i += 8) {
                    simdgroup_float8x8 mq;
                    T8x8 mk;
                    simdgroup_load(mq, s_q + 8*sg*n_k + i, n_k, 0, false);
                    simdgroup_load(mk, s_cells + c*n_k + i, n_k, 0, true);
                    simdgroup_multiply_accumulate(logits, mq, mk, logits);
                }
                simdgroup_store(logits, s_p + 8*sg*n_c + c, n_c, 0, false);
            }
            simdgroup_barrier(mem_flags::mem_threadgroup);

            float top = m;
            for (int c = lane%4; c < n_c; c += 4) {
                const float x = c0 + c < n_seen ? logit_of(args, s_p[row*n_c + c]) : NONE;
                s_p[row*n_c + c] = x;
                top = max(top, x);
            }
            top = max(top, simd_shuffle_xor(top, 1));
            top = max(top, simd_shuffle_xor(top, 2));

            const float keep = exp(m - top);
            float sum = 0.0f;
            for (int c = lane%4; c < n_c; c += 4) {
                const float p = c0 + c < n_seen ? exp(s_p[row*n_c + c] - top) : 0.0f;
                s_p[row*n_c + c] = p;
                sum += p;
            }
            sum += simd_shuffle_xor(sum, 1);
            sum += simd_shuffle_xor(sum, 2);

            m = top;
            l = l*keep + sum;
            if (lane%4 == 0) {
                s_scale[9*own] = keep;
            }

            threadgroup_barrier(mem_flags::mem_threadgroup); // all have read the keys
            load_block<T, false>(args, v, cells, c0, n_cells, args.n_embd_v, n_v, s_cells, tiitg);
            threadgroup_barrier(mem_flags::mem_threadgroup);

            simdgroup_float8x8 scale;
            simdgroup_load(scale, s_scale, 8, 0, false);
            for (short j = 0; j < n_v8; ++j) {
                simdgroup_multiply(out[j], scale, out[j]);
            }
            for (int c = 0; c < n_c; c += 8) {
                simdgroup_float8x8 mp;
                simdgroup_load(mp, s_p + 8*sg*n_c + c, n_c, 0, false);
                for (short j = 0; j < n_v8; ++j) {
                    T8x8 mv;
                    simdgroup_load(mv, s_cells + c*n_v + 8*j, n_v, 0, false);
                    simdgroup_multiply_accumulate(out[j], mp, mv, out[j]);
                }
            }
        }
        a = b;
    }

    const int head = head_kv*n_group + row%n_group;
    if (args.has_sinks) {
        const float top  = max(m, sinks[head]);
        const float keep = exp(m - top);
        l = (l*keep + exp(sinks[head] - top))/max(keep, FLT_MIN);
    }

    // rows go out by way of the simdgroup's 8x8 numbers
    const float inverse = l > 0.0f ? 1.0f/l : 0.0f;
    device float * out_row = (device float *) (dst + head*args.nb_d1 + token*args.nb_d2);
    for (short j = 0; j < n_v8; ++j) {
        simdgroup_barrier(mem_flags::mem_threadgroup);
        simdgroup_store(out[j], s_scale, 8, 0, false);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (short e = 0; e < 2; ++e) {
            const int i = 8*j + 2*(lane%4) + e;
            if (token < t1 && i < args.n_embd_v) {
                out_row[i] = s_scale[8*own + 2*(lane%4) + e]*inverse;
            }
        }
    }
}

typedef decltype(kernel_retention_attn_prompt<half, simdgroup_half8x8, 8>) kernel_retention_attn_prompt_t;

#define RETENTION_PROMPT(name, T, v) \
    template [[host_name("kernel_retention_attn_prompt_" #name "_v" #v)]] \
    kernel kernel_retention_attn_prompt_t kernel_retention_attn_prompt<T, simdgroup_##T##8x8, v>;

RETENTION_PROMPT(f16, half,   8)
RETENTION_PROMPT(f16, half,  10)
RETENTION_PROMPT(f16, half,  12)
RETENTION_PROMPT(f16, half,  16)
RETENTION_PROMPT(f16, half,  32)
RETENTION_PROMPT(f32, float,  8)
RETENTION_PROMPT(f32, float, 10)
RETENTION_PROMPT(f32, float, 12)
RETENTION_PROMPT(f32, float, 16)
RETENTION_PROMPT(f32, float, 32)
