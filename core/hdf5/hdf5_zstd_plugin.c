/* The zstd filter as a plugin that HDF5 loads from HDF5_PLUGIN_PATH: h5dump and h5py read captures with it where
 * hdf5plugin is not installed. */
#include <H5PLextern.h>

#include "core/hdf5/hdf5_zstd_filter.h"

H5PL_type_t H5PLget_plugin_type(void) { return H5PL_TYPE_FILTER; }
const void *H5PLget_plugin_info(void) { return &rb_zstd_filter; }
