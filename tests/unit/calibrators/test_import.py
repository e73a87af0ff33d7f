import subprocess
import sys


def test_importing_the_package_loads_nothing_heavy():
    script = (
        "import sys; before = set(sys.modules); import calibrators; "
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('calibrators')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
