"""Makes pseudo labels with a trained model: `python pipelines/pseudo_labels.py --help`.

Everything lives in `wsss`, so that a worker of any runner needs the installed package only.
"""

from wsss.pseudo_labels import main

if __name__ == "__main__":
    raise SystemExit(main())
