/* See model/cuda/matmul_cuda.cuh. cuBLAS stores matrices by columns. There y [m][n] = x [m][k] w[n][k]^T is Y (n x m) =
 * W^T X, with A = w, transposed, and B = x. */
#include <cublasLt.h>
#include <dlfcn.h>
#include <stdlib.h>

#include "core/cuda_check.cuh"
#include "model/cuda/matmul_cuda.cuh"

enum { WORKSPACE_BYTES = 32 << 20, MAX_PLANS = 256 };

typedef struct lt_functions {
    decltype(&cublasLtCreate) create;
    decltype(&cublasLtDestroy) destroy;
    decltype(&cublasLtMatmulDescCreate) desc_create;
    decltype(&cublasLtMatmulDescDestroy) desc_destroy;
    decltype(&cublasLtMatmulDescSetAttribute) desc_set;
    decltype(&cublasLtMatrixLayoutCreate) layout_create;
    decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
    decltype(&cublasLtMatmulPreferenceCreate) preference_create;
    decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
    decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
    decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
    decltype(&cublasLtMatmul) matmul;
} lt_functions;

/* The plan of a shape that was asked for before: finding the algorithm may take longer than the product. */
typedef struct lt_plan {
    int64_t m, n, k;
    layer_cuda_precision precision;
    bool is_f32;
    uint32_t alignment; /* bytes: of the operands and the result */
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
} lt_plan;

typedef struct lt_matmul {
    void *library;
    lt_functions lt;
    cublasLtHandle_t handle;
    void *workspace;
    lt_plan plans[MAX_PLANS];
    int n_plans;
} lt_matmul;

/* ---- opening --------------------------------------------------------------------------------- */

template <typename F> static bool find(F *function, void *library, const char *name)
{
    *function = reinterpret_cast<F>(dlsym(library, name));
    return *function != nullptr;
}

static rb_status open_library(lt_matmul *m, rb_error *err)
{
    static const char *const names[] = {"libcublasLt.so.13", "/usr/local/cuda/lib64/libcublasLt.so.13",
                                        "/usr/local/cuda/targets/x86_64-linux/lib/libcublasLt.so.13"};
    const char *given = getenv("ROPEBITS_CUBLASLT");
    if (given && *given) m->library = dlopen(given, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; !m->library && i < RB_COUNT(names); i++) m->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!m->library)
        return rb_fail(err, RB_EDEVICE,
                       "cuBLASLt (libcublasLt.so.13) is not on this host: install CUDA 13's cuBLAS, or name the file "
                       "in ROPEBITS_CUBLASLT");
    const bool has_all = find(&m->lt.create, m->library, "cublasLtCreate")
                         && find(&m->lt.destroy, m->library, "cublasLtDestroy")
                         && find(&m->lt.desc_create, m->library, "cublasLtMatmulDescCreate")
                         && find(&m->lt.desc_destroy, m->library, "cublasLtMatmulDescDestroy")
                         && find(&m->lt.desc_set, m->library, "cublasLtMatmulDescSetAttribute")
                         && find(&m->lt.layout_create, m->library, "cublasLtMatrixLayoutCreate")
                         && find(&m->lt.layout_destroy, m->library, "cublasLtMatrixLayoutDestroy")
                         && find(&m->lt.preference_create, m->library, "cublasLtMatmulPreferenceCreate")
                         && find(&m->lt.preference_destroy, m->library, "cublasLtMatmulPreferenceDestroy")
                         && find(&m->lt.preference_set, m->library, "cublasLtMatmulPreferenceSetAttribute")
                         && find(&m->lt.heuristic, m->library, "cublasLtMatmulAlgoGetHeuristic")
                         && find(&m->lt.matmul, m->library, "cublasLtMatmul");
    return has_all ? RB_OK : rb_fail(err, RB_EDEVICE, "libcublasLt.so.13 lacks functions of cuBLASLt 13");
}

rb_status matmul_open(void **out, rb_error *err)
{
    lt_matmul *m = static_cast<lt_matmul *>(calloc(1, sizeof(lt_matmul)));
    rb_status st;
    *out = nullptr;
    if (!m) return rb_fail(err, RB_ENOMEM, "cuBLASLt: no memory");
    st = open_library(m, err);
    if (st == RB_OK && m->lt.create(&m->handle) != CUBLAS_STATUS_SUCCESS)
        st = rb_fail(err, RB_EDEVICE, "cuBLASLt cannot start");
    if (st == RB_OK) st = rb_cuda_status(cudaMalloc(&m->workspace, WORKSPACE_BYTES), "cuBLASLt's workspace", err);
    if (st != RB_OK) {
        matmul_close(m);
        return st;
    }
    *out = m;
    return RB_OK;
}

static void free_plan(const lt_matmul *m, lt_plan *plan)
{
    if (plan->desc) m->lt.desc_destroy(plan->desc);
    if (plan->a) m->lt.layout_destroy(plan->a);
    if (plan->b) m->lt.layout_destroy(plan->b);
    if (plan->c) m->lt.layout_destroy(plan->c);
}

void matmul_close(void *matmul)
{
    lt_matmul *m = static_cast<lt_matmul *>(matmul);
    if (!m) return;
    for (int i = 0; i < m->n_plans; i++) free_plan(m, &m->plans[i]);
    if (m->workspace) cudaFree(m->workspace);
    if (m->handle) m->lt.destroy(m->handle);
    free(m); /* the library stays open, because cuBLAS keeps threads and handlers */
}

/* ---- products -------------------------------------------------------------------------------- */

static rb_status lt_status(cublasStatus_t code, const lt_plan *plan, rb_error *err)
{
    if (code == CUBLAS_STATUS_SUCCESS) return RB_OK;
    return rb_fail(err, RB_EDEVICE, "cuBLASLt: product %lld x %lld x %lld: status %d", static_cast<long long>(plan->m),
                   static_cast<long long>(plan->n), static_cast<long long>(plan->k), static_cast<int>(code));
}

static rb_status choose_algorithm(lt_matmul *m, lt_plan *plan, rb_error *err)
{
    static const cublasLtMatmulPreferenceAttributes_t aligned[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    cublasLtMatmulPreference_t preference = nullptr;
    cublasLtMatmulHeuristicResult_t found;
    const size_t workspace = WORKSPACE_BYTES;
    int n_found = 0;
    rb_status st;
    RB_TRY(st, lt_status(m->lt.preference_create(&preference), plan, err), done);
    RB_TRY(st,
           lt_status(
               m->lt.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace),
               plan, err),
           done);
    for (size_t i = 0; i < RB_COUNT(aligned); i++)
        RB_TRY(st,
               lt_status(m->lt.preference_set(preference, aligned[i], &plan->alignment, sizeof plan->alignment), plan,
                         err),
               done);
    RB_TRY(st,
           lt_status(m->lt.heuristic(m->handle, plan->desc, plan->a, plan->b, plan->c, plan->c, preference, 1, &found,
                                     &n_found),
                     plan, err),
           done);
    if (n_found == 0) st = lt_status(CUBLAS_STATUS_NOT_SUPPORTED, plan, err);
    else plan->algo = found.algo;
done:
    if (preference) m->lt.preference_destroy(preference);
    return st;
}

static rb_status make_plan(lt_matmul *m, lt_plan *plan, rb_error *err)
{
    const cudaDataType_t operand = plan->precision == LAYER_CUDA_BF16 ? CUDA_R_16BF : CUDA_R_32F,
                         result = plan->is_f32 ? CUDA_R_32F : operand;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    rb_status st;
    RB_TRY(st, lt_status(m->lt.desc_create(&plan->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), plan, err), done);
    RB_TRY(
        st,
        lt_status(m->lt.desc_set(plan->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed), plan, err),
        done);
    RB_TRY(st, lt_status(m->lt.layout_create(&plan->a, operand, plan->k, plan->n, plan->k), plan, err), done);
    RB_TRY(st, lt_status(m->lt.layout_create(&plan->b, operand, plan->k, plan->m, plan->k), plan, err), done);
    RB_TRY(st, lt_status(m->lt.layout_create(&plan->c, result, plan->n, plan->m, plan->n), plan, err), done);
    st = choose_algorithm(m, plan, err);
done:
    return st;
}

static rb_status find_plan(lt_matmul *m, lt_plan **out, const lt_plan *wanted, rb_error *err)
{
    for (int i = 0; i < m->n_plans; i++) {
        lt_plan *plan = &m->plans[i];
        if (plan->m == wanted->m && plan->n == wanted->n && plan->k == wanted->k && plan->precision == wanted->precision
            && plan->is_f32 == wanted->is_f32 && plan->alignment == wanted->alignment) {
            *out = plan;
            return RB_OK;
        }
    }
    if (m->n_plans == MAX_PLANS) free_plan(m, &m->plans[--m->n_plans]);
    *out = &m->plans[m->n_plans];
    **out = *wanted;
    const rb_status st = make_plan(m, *out, err);
    if (st == RB_OK) m->n_plans++;
    else free_plan(m, *out);
    return st;
}

/* Bytes to which all three are aligned, up to what cuBLASLt takes for granted. Rows of small models begin anywhere. */
static uint32_t common_alignment(const void *y, const void *x, const void *w)
{
    const uintptr_t bits =
        reinterpret_cast<uintptr_t>(y) | reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(w);
    uint32_t alignment = 256;
    while (bits % alignment != 0) alignment /= 2;
    return alignment;
}

rb_status matmul_run(void *matmul, void *y, bool is_f32, bool adds, const void *x, const void *w, int64_t m, int64_t n,
                     int64_t k, layer_cuda_precision precision, void *stream, rb_error *err)
{
    lt_matmul *lt = static_cast<lt_matmul *>(matmul);
    lt_plan wanted = {}, *plan = nullptr;
    wanted.m = m, wanted.n = n, wanted.k = k, wanted.precision = precision, wanted.is_f32 = is_f32;
    wanted.alignment = common_alignment(y, x, w);
    const float one = 1.0f, beta = adds ? 1.0f : 0.0f;
    const rb_status st = find_plan(lt, &plan, &wanted, err);
    if (st != RB_OK) return st;
    return lt_status(lt->lt.matmul(lt->handle, plan->desc, &one, w, plan->a, x, plan->b, &beta, y, plan->c, y, plan->c,
                                   &plan->algo, lt->workspace, WORKSPACE_BYTES, static_cast<cudaStream_t>(stream)),
                     plan, err);
}
