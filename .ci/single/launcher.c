/* The single executable: Python, linked into this program, runs the zip archive at its own end.
 *
 * Python's modules are imported out of that archive. Libraries for the dynamic linker have to be
 * files; they become files in memory (embedded.py makes them, load_library below links those that
 * are no modules). So nothing is unpacked to a disk, and there is one process.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

static PyObject *load_library(PyObject *self, PyObject *path)
{
    const char *text = PyUnicode_AsUTF8(path);
    if (text == NULL)
        return NULL;
    /* It stays loaded under its own name (DT_SONAME): who needs that name finds it. */
    if (dlopen(text, RTLD_NOW | RTLD_GLOBAL) == NULL)
        return PyErr_Format(PyExc_ImportError, "%s", dlerror());
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"load_library", load_library, METH_O, "Load the shared library at a path, for others to use."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_launcher", NULL, 0, methods};

static PyObject *make_module(void)
{
    return PyModule_Create(&module);
}

int main(int argc, char **argv)
{
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0) {
        perror("opuslive: /proc/self/exe");
        return 1;
    }
    self[length] = '\0';

    PyPreConfig before;
    PyPreConfig_InitPythonConfig(&before); /* The locale is treated as by python3. */
    before.isolated = 1;
    before.use_environment = 0;
    PyStatus status = Py_PreInitialize(&before);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);

    PyImport_AppendInittab("_launcher", make_module);
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.isolated = 1;
    config.use_environment = 0;
    config.user_site_directory = 0;
    config.site_import = 0;
    config.write_bytecode = 0;
    config.parse_argv = 0;
    config.pathconfig_warnings = 0;
    config.module_search_paths_set = 1;
    wchar_t *path = Py_DecodeLocale(self, NULL);
    if (path == NULL)
        return 1;
    status = PyWideStringList_Append(&config.module_search_paths, path);
    if (!PyStatus_Exception(status))
        status = PyConfig_SetString(&config, &config.executable, path);
    if (!PyStatus_Exception(status))
        status = PyConfig_SetString(&config, &config.prefix, path);
    if (!PyStatus_Exception(status))
        status = PyConfig_SetString(&config, &config.exec_prefix, path);
    if (!PyStatus_Exception(status))
        status = PyConfig_SetBytesArgv(&config, argc, argv);
    if (!PyStatus_Exception(status))
        status = PyConfig_SetString(&config, &config.run_command, L"import embedded");
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyMem_RawFree(path);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
    return Py_RunMain();
}
