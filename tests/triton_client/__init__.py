"""What users of tritonclient do, and see, each as a function that runs in a process of its own."""
