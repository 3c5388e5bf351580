/* HDF5's registered filter 32015: a chunk is one zstd frame that carries its content size (as hdf5plugin writes it)
 * and, from us, a checksum of the content, so that a damaged chunk is an error and never a number.
 *
 * It uses no other part of core and no symbol of libhdf5: the loadable plugin is this file and ten lines more, and it
 * must work with any libhdf5 that the host program has loaded. */
#ifndef RB_CORE_HDF5_HDF5_ZSTD_FILTER_H
#define RB_CORE_HDF5_HDF5_ZSTD_FILTER_H

#include <hdf5.h>
#include <stdbool.h>
#include <stddef.h>
#include <zstd.h>

/* For H5Zregister and H5PLget_plugin_info. One parameter, cd_values[0]: the zstd level, 1 to 22; without it 3. */
extern const H5Z_class2_t rb_zstd_filter;

/* Bytes a frame of n content bytes may need. */
size_t rb_zstd_capacity(size_t n);

/* Packs n bytes as one frame; returns its size, 0 on failure. The frame depends only on the bytes, the level and the
 * version of zstd. *context: NULL, or what an earlier call made; the caller frees it with ZSTD_freeCCtx. */
size_t rb_zstd_pack(ZSTD_CCtx **context, void *frame, size_t capacity, const void *bytes, size_t n, int level);

/* The frame must hold n bytes exactly; false when it does not, or is damaged. *context as above, for ZSTD_freeDCtx. */
bool rb_zstd_unpack(ZSTD_DCtx **context, void *bytes, size_t n, const void *frame, size_t frame_bytes);

#endif
