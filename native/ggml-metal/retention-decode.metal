// retention-decode.metal - retention attention of a few tokens on Metal
//
// A threadgroup has up to four query heads of one KV head and a part of the cells, and eight lanes work on a cell. A second
// kernel merges the parts. Lengths of cell lists are read by the kernels, as a graph is encoded before its inputs are there.

constant constexpr short LANES = 8;                   // lanes that share a cell
constant constexpr short CELLS = N_SIMDWIDTH/LANES;   // cells that a simdgroup reads at once
constant constexpr short SIMDGROUPS = 4;

// Rows of partial results, [n_tokens, n_head, n_parts]: the largest logit, the sum of weights, the weighted values.
// n_heads: most query heads of a threadgroup; n_v4: quadruples of V that a lane keeps, at least n_embd_v/(4*LANES)
template <short n_heads, short n_v4>
kernel void kernel_retention_attn_decode(
        constant retention_attn_args & args,
        device const char * q,
        device const char * k,
        device const char * v,
        device const int32_t * pages,
        device const int32_t * cell_lists,
        device const int32_t * tokens,
        device float * partial,
        threadgroup float * shared RETENTION_SHARED,
        uint3  tgpig[[threadgroup_position_in_grid]],
        ushort tiitg[[thread_index_in_threadgroup]],
        ushort lane[[thread_index_in_simdgroup]],
        ushort sg[[simdgroup_index_in_threadgroup]]) {
    const int n_group = args.n_head/args.n_head_kv;
    const int n_sub   = (n_group + n_heads - 1)/n_heads;
    const int part    = tgpig.x;
    const int head_kv = tgpig.y/n_sub;
    const int first   = (tgpig.y%n_sub)*n_heads;
    const int token   = tgpig.z;
    const int n_own   = min(int(n_heads), n_group - first); // query heads of this threadgroup

    device const int32_t * tok = tokens + 3*token;
    const cells_of cells = find_cells(args, pages, cell_lists, tok[0], head_kv);
    const int n_cells = cells.n_old + tok[1];

    const int step = CELLS*SIMDGROUPS;
    const int each = (n_cells + args.n_parts*step - 1)/(args.n_parts*step)*step;
    const int c0   = part*each;
    const int c1   = min(n_cells, c0 + each);

    // queries, 0 for the heads that are not there
    const int n_k = args.n_embd_k;
    for (int i = tiitg; i < n_heads*n_k; i += N_SIMDWIDTH*SIMDGROUPS) {
        const int h = i/n_k;
        shared[i] = h < n_own ? ((device const float *) (q + (head_kv*n_group + first + h)*args.nb_q1 + token*args.nb_q2))[i%n_k] : 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    const short tx = lane%LANES;
    const short ty = lane/LANES;

    float  m[n_heads];
    float  l[n_heads];
    float4 acc[n_heads][n_v4];
    for (short h = 0; h < n_heads; ++h) {
        m[h] = NONE;
        l[h] = 0.0f;
        for (short j = 0; j < n_v4; ++j) {
            acc[h][j] = float4(0.0f);
        }
    }

    for (int c = c0 + sg*CELLS; c < c1; c += step) {
        const bool there = c + ty < c1;
        const int  cell  = there ? c + ty : c1 - 1;

        float s[n_heads];
        for (short h = 0; h < n_heads; ++h) {
            s[h] = 0.0f;
        }
        device const char * k_row = k + k_offset(args, cells, cell);
        for (int i = 4*tx; i < n_k; i += 4*LANES) {
            const float4 x = load4(K_TYPE, k_row, i);
            for (short h = 0; h < n_heads; ++h) {
                s[h] += dot(x, *(threadgroup const float4 *) (shared + h*n_k + i));
            }
        }
        for (short h = 0; h < n_heads; ++h) {
            for (short d = LANES/2; d > 0; d /= 2) {
                s[h] += simd_shuffle_xor(s[h], d);
            }
        }
        if (!there) {
            continue;
        }

        device const char * v_row = v + v_offset(args, cells, cell);
        float4 x[n_v4];
        for (short j = 0; j < n_v4; ++j) {
            const int i = 4*(tx + j*LANES);
            x[j] = i < args.n_embd_v ? load4(V_TYPE, v_row, i) : float4(0.0f);
        }
        for (short h = 0; h < n_heads; ++h) {
            const float logit = logit_of(args, s[h]);
            const float top   = max(m[h], logit);
            const float keep  = exp(m[h] - top);
            const float p     = exp(logit - top);
            m[h] = top;
            l[h] = l[h]*keep + p;
            for (short j = 0; j < n_v4; ++j) {
                acc[h][j] = acc[h][j]*keep + p*x[j];
            }
        }
    }

    // merge the four cells' states of a simdgroup, then those of the simdgroups
    const int n_state = 2 + args.n_embd_v;
    threadgroup_barrier(mem_flags::mem_threadgroup); // all have read their queries
    for (short h = 0; h < n_heads; ++h) {
        float top = m[h];
        for (short d = LANES; d < N_SIMDWIDTH; d *= 2) {
            top = max(top, simd_shuffle_xor(top, d));
        }
        const float keep = exp(m[h] - top);
        float sum = l[h]*keep;
        for (short d = LANES; d < N_SIMDWIDTH; d *= 2) {
            sum += simd_shuffle_xor(sum, d);
        }
        threadgroup float * state = shared + (sg*n_heads + h)*n_state;
        for (short j = 0; j < n_v4; ++j) {
            float4 x = acc[h][j]*keep;
            for (short d = LANES; d < N_SIMDWIDTH; d *= 2) {
                x += simd_shuffle_xor(x, d);
            }
            const int i = 4*(tx + j*LANES);
            if (ty == 0 && i < args.n_embd_v) {
                for (short e = 0; e < 4; ++e) {
                    state[2 + i + e] = x[e];
                }
            }
        }
        if (lane == 0) {
            state[0] = top;
            state[1] = sum;
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    for (int h = 0; h < n_own; ++h) {
        float top = NONE;
        for (short s = 0; s < SIMDGROUPS; ++s) {
            top = max(top, shared[(s*n_heads + h)*n_state]);
        }
        device float * out = partial + ((uint64_t(token)*args.n_head + head_kv*n_group + first + h)*args.n_parts + part)*n_state;
        for (int i = tiitg; i < n_state; i += N_SIMDWIDTH*SIMDGROUPS) {
            float x = 0.0f;
            for (short s = 0; s < SIMDGROUPS; ++s) {
                threadgroup const float * state = shared + (s*n_heads + h)*n_state;
                x += state[i]*exp(state[0] - top);
            }
            out[i] = i == 0 ? top : x;
        }
    }
}

typedef decltype(kernel_retention_attn_decode<1, 2>) kernel_retention_attn_decode_t;

#define RETENTION_DECODE(h, v) \
    template [[host_name("kernel_retention_attn_decode_h" #h "_v" #v)]] \
    kernel kernel_retention_attn_decode_t kernel_retention_attn_decode<h, v>;

RETENTION_DECODE(1, 2)
RETENTION_DECODE(1, 4)
RETENTION_DECODE(1, 8)
RETENTION_DECODE(2, 2)
RETENTION_DECODE(2, 4)
RETENTION_DECODE(2, 8)
RETENTION_DECODE(4, 2)
RETENTION_DECODE(4, 4)
RETENTION_DECODE(4, 8)

// merge the parts of a query head and a token
kernel void kernel_retention_attn_merge(
        constant retention_attn_args & args,
        device const float * partial,
        device const float * sinks,
        device char * dst,
        uint3  tgpig[[threadgroup_position_in_grid]],
        ushort tiitg[[thread_index_in_threadgroup]]) {
    const int head    = tgpig.x;
    const int token   = tgpig.y;
    const int n_state = 2 + args.n_embd_v;

    device const float * parts = partial + (uint64_t(token)*args.n_head + head)*args.n_parts*n_state;

    float top = args.has_sinks ? sinks[head] : NONE;
    for (int p = 0; p < args.n_parts; ++p) {
        top = max(top, parts[p*n_state]);
    }
    float sum = args.has_sinks ? exp(sinks[head] - top) : 0.0f;
    for (int p = 0; p < args.n_parts; ++p) {
        device const float * state = parts + p*n_state;
        sum += state[1]*exp(state[0] - top);
    }
    const float scale = sum > 0.0f ? 1.0f/sum : 0.0f;

    device float * out = (device float *) (dst + head*args.nb_d1 + token*args.nb_d2);
    for (int i = tiitg; i < args.n_embd_v; i += N_SIMDWIDTH) {
        float x = 0.0f;
        for (int p = 0; p < args.n_parts; ++p) {
            device const float * state = parts + p*n_state;
            x += state[2 + i]*exp(state[0] - top);
        }
        out[i] = x*scale;
    }
}
