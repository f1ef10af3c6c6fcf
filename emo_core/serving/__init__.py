"""The model as a service: jobs that outlive what carries them out."""
