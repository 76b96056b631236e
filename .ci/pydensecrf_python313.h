/* Lets pydensecrf 1.0rc3 compile on Python 3.13: its sources need a Cython before 3, whose last release (0.29.37)
 * calls private functions that 3.13 renamed, hid or gave one more argument. The Makefile includes this file first. */
#include <Python.h>

#if PY_VERSION_HEX >= 0x030d0000
#define _PyLong_AsByteArray(v, bytes, n, little_endian, is_signed) \
    _PyLong_AsByteArray(v, bytes, n, little_endian, is_signed, 1)
#define _PyList_Extend(list, more) (PyList_Extend((PyObject *)(list), more) < 0 ? NULL : Py_NewRef(Py_None))
#define _PyDict_SetItem_KnownHash(dict, key, value, hash) PyDict_SetItem(dict, key, value)
/* only read for the optimization level, that is, whether `assert` counts */
#define _PyInterpreterState_GetConfig(interpreter) (&(const PyConfig &)PyConfig{})
#endif
