// retention-store.metal - the gate, and the storing of new cells, on Metal

// the gate: a simdgroup per KV head and token

template <int type>
kernel void kernel_retention_gate(
        constant retention_gate_args & args,
        device const char * a,
        device const char * w,
        device const float * b,
        device char * dst,
        uint3  tgpig[[threadgroup_position_in_grid]],
        ushort lane[[thread_index_in_simdgroup]]) {
    const int head  = tgpig.x;
    const int token = tgpig.y;

    device const float * x   = (device const float *) (a + token*args.nb_a1);
    device const char  * row = w + head*args.nb_w1;

    float sum = 0.0f;
    const int n4 = args.n_ff%4 == 0 ? args.n_ff : 0; // other rows are not aligned for vectors, and never quantised
    for (int i = 4*lane; i < n4; i += 4*N_SIMDWIDTH) {
        sum += dot(load4(type, row, i), float4(x[i], x[i + 1], x[i + 2], x[i + 3]));
    }
    for (int i = n4 + lane; i < args.n_ff; i += N_SIMDWIDTH) {
        sum += x[i]*(type == RETENTION_F32 ? ((device const float *) row)[i] : float(((device const half *) row)[i]));
    }

    const float u = simd_sum(sum) + b[head];
    if (lane == 0) {
        // log(1 + e) as a series of s = e/(2 + e), at most 1/3: near 0, where log beta means "keep", it has all of its digits
        const float e  = exp(-fabs(u));
        const float s  = e/(2.0f + e);
        const float s2 = s*s;
        const float l  = 2.0f*s*(1.0f + s2*(1.0f/3 + s2*(1.0f/5 + s2*(1.0f/7 + s2*(1.0f/9 + s2*(1.0f/11 + s2/13))))));
        ((device float *) (dst + token*args.nb_d1))[head] = args.is_score ? u : min(u, 0.0f) - l;
    }
}

typedef decltype(kernel_retention_gate<RETENTION_F32>) kernel_retention_gate_t;

template [[host_name("kernel_retention_gate_f32")]]  kernel kernel_retention_gate_t kernel_retention_gate<RETENTION_F32>;
template [[host_name("kernel_retention_gate_f16")]]  kernel kernel_retention_gate_t kernel_retention_gate<RETENTION_F16>;
template [[host_name("kernel_retention_gate_q8_0")]] kernel kernel_retention_gate_t kernel_retention_gate<RETENTION_Q8_0>;

// store the new cells: a thread writes 32 numbers of a row

kernel void kernel_retention_store(
        constant retention_attn_args & args,
        device char * k,
        device char * v,
        device const char * k_new,
        device const char * v_new,
        device const int32_t * pages,
        device const int32_t * cell_lists,
        device const int32_t * tokens,
        uint3  tgpig[[threadgroup_position_in_grid]],
        ushort tiitg[[thread_index_in_threadgroup]]) {
    const int head  = tgpig.x;
    const int token = tgpig.y;

    device const int32_t * tok = tokens + 3*token;
    const cells_of cells = find_cells(args, pages, cell_lists, tok[0], head);
    const int      cell  = cells.n_old + tok[2];

    const int n_k = (args.n_embd_k + QUANT_CELLS - 1)/QUANT_CELLS;
    const int n_v = (args.n_embd_v + QUANT_CELLS - 1)/QUANT_CELLS;

    for (int i = tiitg; i < n_k + n_v; i += N_SIMDWIDTH) {
        if (i < n_k) {
            store32(K_TYPE, k + k_offset(args, cells, cell),
                    (device const float *) (k_new + head*args.nb_k_new1 + token*args.nb_k_new2), i*QUANT_CELLS, args.n_embd_k);
        } else {
            store32(V_TYPE, v + v_offset(args, cells, cell),
                    (device const float *) (v_new + head*args.nb_v_new1 + token*args.nb_v_new2), (i - n_k)*QUANT_CELLS, args.n_embd_v);
        }
    }
}
