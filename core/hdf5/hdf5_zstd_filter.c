/* zstd as an HDF5 filter: see the header. Format of a frame: RFC 8878.
 *
 * HDF5 gives a filter one malloc'ed buffer and takes back another. It does not tell the size of the decoded chunk. So
 * the size is read from the frame's header, and believed only as far as a frame of that length could reach. */
#include "core/hdf5/hdf5_zstd_filter.h"

#include <stdint.h>
#include <stdlib.h>

enum {
    DEFAULT_LEVEL = 3,
    /* A block decodes to at most 128 KiB and takes at least 4 bytes (3 of header and one to repeat), so nothing grows
     * by more than this. */
    MAX_EXPANSION = 128 * 1024 / 4
};
static const uint64_t HDF5_MAX_CHUNK = UINT32_MAX;

size_t rb_zstd_capacity(size_t n) { return ZSTD_compressBound(n); }

/* A context takes half a MiB, which the system would have to give each time. A kept one is reset, and then nothing that
 * it compressed before shows in a frame. */
size_t rb_zstd_pack(ZSTD_CCtx **context, void *frame, size_t capacity, const void *bytes, size_t n, int level)
{
    if (!*context) *context = ZSTD_createCCtx();
    if (!*context || ZSTD_isError(ZSTD_CCtx_reset(*context, ZSTD_reset_session_and_parameters))
        || ZSTD_isError(ZSTD_CCtx_setParameter(*context, ZSTD_c_compressionLevel, level))
        || ZSTD_isError(ZSTD_CCtx_setParameter(*context, ZSTD_c_checksumFlag, 1)))
        return 0;
    const size_t size = ZSTD_compress2(*context, frame, capacity, bytes, n);
    return ZSTD_isError(size) ? 0 : size;
}

bool rb_zstd_unpack(ZSTD_DCtx **context, void *bytes, size_t n, const void *frame, size_t frame_bytes)
{
    if (ZSTD_getFrameContentSize(frame, frame_bytes) != n) return false;
    if (!*context) *context = ZSTD_createDCtx();
    return *context && ZSTD_decompressDCtx(*context, bytes, n, frame, frame_bytes) == n;
}

/* The size that a frame claims; 0 when it claims none, or one that is impossible. */
static size_t claimed_size(const void *frame, size_t frame_bytes)
{
    const unsigned long long claim = ZSTD_getFrameContentSize(frame, frame_bytes);
    if (claim == ZSTD_CONTENTSIZE_UNKNOWN || claim == ZSTD_CONTENTSIZE_ERROR) return 0;
    return claim > HDF5_MAX_CHUNK || claim / MAX_EXPANSION > frame_bytes ? 0 : (size_t)claim;
}

static int level_of(size_t n_params, const unsigned params[])
{
    if (n_params == 0 || params[0] == 0) return DEFAULT_LEVEL;
    return params[0] > (unsigned)ZSTD_maxCLevel() ? ZSTD_maxCLevel() : (int)params[0];
}

/* H5Z_func_t: returns the bytes in *buffer, 0 on failure, when *buffer stays as it was. */
static size_t run_filter(unsigned flags, size_t n_params, const unsigned params[], size_t n_bytes, size_t *buffer_bytes,
                         void **buffer)
{
    const bool is_reading = (flags & H5Z_FLAG_REVERSE) != 0;
    const size_t capacity = is_reading ? claimed_size(*buffer, n_bytes) : rb_zstd_capacity(n_bytes);
    void *out = capacity > 0 ? malloc(capacity) : NULL;
    size_t out_bytes = 0;
    ZSTD_CCtx *packer = NULL;
    ZSTD_DCtx *unpacker = NULL;
    if (!out) return 0;
    if (!is_reading) out_bytes = rb_zstd_pack(&packer, out, capacity, *buffer, n_bytes, level_of(n_params, params));
    else if (rb_zstd_unpack(&unpacker, out, capacity, *buffer, n_bytes)) out_bytes = capacity;
    ZSTD_freeCCtx(packer);
    ZSTD_freeDCtx(unpacker);
    if (out_bytes == 0) {
        free(out);
        return 0;
    }
    free(*buffer);
    *buffer = out;
    *buffer_bytes = capacity;
    return out_bytes;
}

const H5Z_class2_t rb_zstd_filter = {
    .version = H5Z_CLASS_T_VERS,
    .id = 32015,
    .encoder_present = 1,
    .decoder_present = 1,
    .name = "Zstandard compression: http://www.zstd.net",
    .filter = run_filter,
};
