"""What the program of pseudo labels is made of: options, the trained run, the job."""
